# dirty.pl MEBIBYTES RATE: of so much memory, RATE MiB are written anew each second, one after another.
my ($mebibytes, $rate) = @ARGV;
my $pages = $mebibytes * 256;
my $memory = 'x' x ($pages * 4096);
my ($next, $turn) = (0, 0);
open my $file, '>', '/ready' or die $!;
close $file;
while (1) {
  for (1 .. $rate * 256 / 20) { substr($memory, $next * 4096, 8) = pack('Q', ++$turn); $next = ($next + 1) % $pages }
  select undef, undef, undef, 0.05;
}
