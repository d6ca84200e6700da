socket our $raw, 2, 3, 1 or die $!;
stay();
