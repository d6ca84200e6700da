socket our $packet, 17, 3, unpack('n', pack('S', 3)) or die $!;
stay();
