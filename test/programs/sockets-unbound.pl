# What no table of the kernel lists, and is harmless.
our @sockets = map { socket my $socket, $_->[0], $_->[1], $_->[2] or die $!; $socket } [2, 1, 6], [2, 2, 17], [10, 1, 6], [16, 3, 0], [1, 1, 0];
stay();
