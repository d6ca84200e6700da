# A file that is open by a name that it has lost, and has another one.
open our $file, '+>', '/tmp/one' or die $!;
syswrite $file, 'x';
link '/tmp/one', '/tmp/two' or die $!;
unlink '/tmp/one' or die $!;
stay();
