# deleted-file.pl MEBIBYTES: a file that is open and has no name any more.
open our $file, '+>', '/tmp/deleted' or die $!;
syswrite $file, 'x' x 1048576 or die $! for 1 .. $ARGV[0];
unlink '/tmp/deleted' or die $!;
stay();
