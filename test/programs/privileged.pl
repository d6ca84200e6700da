# What only root may have: a mark of fanotify, an event of perf, a program of BPF.
my $fanotify = call(300, 262, 0, 0);
my $attribute = pack('L L Q x112', 1, 128, 0);
call(298, 241, $attribute, 0, -1, -1, 0);
my $instructions = pack('C C s l C C s l', 0xb7, 0, 0, 0, 0x95, 0, 0, 0);
my $license = "GPL\0";
my $program = pack('L L P P x96', 1, 2, $instructions, $license);
call(321, 280, 5, $program, 128);
stay();
