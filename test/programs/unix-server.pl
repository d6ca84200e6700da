# unix-server.pl PATH: outside of the container.
socket my $listener, 1, 1, 0 or die $!;
bind $listener, pack('S a108', 1, $ARGV[0]) or die $!;
listen $listener, 5 or die $!;
accept my $client, $listener or die $!;
sleep 1000 while 1;
