# tasks.pl KIND...: for each a child that has ended and is not waited for, is stopped, or is traced.
my %wanted = map { $_ => 1 } @ARGV;
sub child { my $child = fork // die $!; return $child if $child; sleep 1000 while 1 }
if ($wanted{zombie}) { fork // die $! or exit 0 }
if ($wanted{stopped}) { kill 'STOP', child() }
# PTRACE_SEIZE: the child goes on.
if ($wanted{traced}) { call(101, 117, 0x4206, child(), 0, 0) }
stay();
