# The first of a pair that has in common: a segment, a semaphore and a queue of System V, a file in /dev/shm, a connection.
my $segment = shmget(4711, 4096, 0600 | 01000) // die $!;
my $semaphores = semget(4711, 2, 0600 | 01000) // die $!;
my $queue = msgget(4711, 0600 | 01000) // die $!;
shmwrite($segment, pack('q', 0), 0, 8) or die $!;
# SETVAL: a lock that is free, and a number that nobody touches.
semctl($semaphores, 0, 16, 1) // die $!;
semctl($semaphores, 1, 16, 5) // die $!;
# Nobody receives this one before the end.
msgsnd($queue, pack('l! a*', 9, 'kept'), 0) or die $!;
my $mapped = call(30, 196, $segment, 0, 0);

open my $journal, '>>', '/dev/shm/journal' or die $!;
select((select($journal), $| = 1)[0]);

# A child takes what comes through the queue and hands it on through a pipe.
pipe my $from, my $to or die $!;
if ((fork // die $!) == 0) {
  my $message;
  while (1) {
    msgrcv($queue, $message, 64, 1, 0) or next;
    syswrite $to, (unpack 'l! a*', $message)[1] . "\n";
  }
}

socket my $listener, 2, 1, 0 or die $!;
bind $listener, pack('S n C4 x8', 2, 7000, 127, 0, 0, 1) or die $!;
listen $listener, 1 or die $!;
open my $ready, '>', '/dev/shm/ready' or die $!;
accept my $client, $listener or die $!;
select((select($client), $| = 1)[0]);
while (defined(my $number = <$from>)) {
  chomp $number;
  semop $semaphores, pack('s3', 0, -1, 0) or die $!;
  my $sum = unpack('q', unpack('P8', pack('Q', $mapped))) + $number;
  shmwrite($segment, pack('q', $sum), 0, 8) or die $!;
  semop $semaphores, pack('s3', 0, 1, 0) or die $!;
  print $journal "$number\n";
  print $client "$sum\n";
}
