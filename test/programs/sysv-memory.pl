# A segment of 1 MiB by its key: whoever uses the key attaches to the same one.
my $id = shmget(4711, 1048576, 0600 | 01000) // die $!;
my $at = call(30, 196, $id, 0, 0);
open my $random, '<', '/dev/urandom' or die $!;
call(0, 63, fileno $random, $at, 1048576);
stay();
