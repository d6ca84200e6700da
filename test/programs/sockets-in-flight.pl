# Nobody accepts. The queue holds two; the kernel drops what the others send, so they go on connecting.
socket our $listener, 2, 1, 6 or die $!;
my $address = pack('S n C4 x8', 2, 7002, 127, 0, 0, 1);
bind $listener, $address or die $!;
listen $listener, 1 or die $!;
our @clients = map { socket my $client, 2, 1 | 2048, 6 or die $!; connect $client, $address; $client } 1 .. 4;
stay();
