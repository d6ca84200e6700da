# A filter that lets everything pass, and a listener for what it would not.
my $filter = pack('S C C L', 6, 0, 0, 0x7fff0000);
my $program = pack('S x6 P', 1, $filter);
call(157, 167, 38, 1, 0, 0, 0);
call(317, 277, 1, 8, $program);
stay();
