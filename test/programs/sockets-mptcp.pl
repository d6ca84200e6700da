socket our $listener, 2, 1, 262 or die $!;
bind $listener, pack('S n x12', 2, 7001) or die $!;
listen $listener, 5 or die $!;
stay();
