open our $file, '<', $ARGV[0] or die $!;
stay();
