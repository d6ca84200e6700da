# The second of the pair: each number that it is given goes through the queue to the first, and comes back as a sum.
select undef, undef, undef, 0.02 until -e '/dev/shm/ready';
my $segment = shmget(4711, 4096, 0600) // die $!;
my $semaphores = semget(4711, 2, 0600) // die $!;
my $queue = msgget(4711, 0600) // die $!;
socket my $server, 2, 1, 0 or die $!;
connect $server, pack('S n C4 x8', 2, 7000, 127, 0, 0, 1) or die $!;
system 'mkfifo', '/in';
open my $in, '+<', '/in' or die $!;
while (defined(my $line = <$in>)) {
  chomp $line;
  my @said;
  if ($line eq 'end') {
    my $message;
    msgrcv($queue, $message, 64, 9, 04000) or die $!;
    push @said, (unpack 'l! a*', $message)[1], msgrcv($queue, $message, 64, 9, 04000) ? 'twice' : 'once';
    # GETVAL
    push @said, 'semaphore', semctl($semaphores, 1, 12, 0) + 0;
  } else {
    msgsnd($queue, pack('l! a*', 1, $line), 0) or die $!;
    my $sum = <$server>;
    chomp $sum;
    semop $semaphores, pack('s3', 0, -1, 0) or die $!;
    shmread $segment, my $value, 0, 8 or die $!;
    push @said, 'connection', $sum, 'segment', unpack('q', $value);
    semop $semaphores, pack('s3', 0, 1, 0) or die $!;
    open my $journal, '<', '/dev/shm/journal' or die $!;
    push @said, 'journal', map { chomp; $_ } <$journal>;
  }
  open my $out, '>', '/out.new' or die $!;
  print $out "@said\n";
  close $out;
  rename '/out.new', '/out' or die $!;
}
