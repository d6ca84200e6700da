# A read lock that others may have, too (LOCK_SH).
open our $file, '<', '/outside/lock' or die $!;
flock $file, 1 or die $!;
stay();
