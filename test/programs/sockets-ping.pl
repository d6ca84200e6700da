socket our $ping, 2, 2, 1 or die $!;
bind $ping, pack('S n C4 x8', 2, 0, 127, 0, 0, 1) or die $!;
stay();
