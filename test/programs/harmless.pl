# epoll, eventfd, timerfd, signalfd, pidfd, a pipe, a pair of sockets, UDP, a small deleted file.
my $mask = "\0" x 8;
call(291, 20, 0);
call(290, 19, 0, 0);
call(283, 85, 1, 0);
call(289, 74, -1, $mask, 8, 0);
call(434, 434, $$, 0);
pipe our $read, our $write or die $!;
socketpair our $one, our $other, 1, 1, 0 or die $!;
socket our $udp, 2, 2, 17 or die $!;
bind $udp, pack('S n x12', 2, 7003) or die $!;
stay();
