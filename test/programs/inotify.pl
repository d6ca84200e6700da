my $path = '/etc';
my $inotify = call(294, 26, 0);
call(254, 27, $inotify, $path, 0x100);
stay();
