open our $device, '+<', $ARGV[0] or die $!;
stay();
