# 8 MiB of each kind: its own, shared with children, of a memfd; 2 MiB are locked.
memory(8 << 20, 0x22, -1);
memory(8 << 20, 0x21, -1);
my $name = 'file';
my $memfd = call(319, 279, $name, 0);
open my $file, '+<&=', $memfd or die $!;
truncate $file, 8 << 20 or die $!;
memory(8 << 20, 0x01, $memfd);
call(149, 228, memory(2 << 20, 0x22, -1), 2 << 20);
stay();
