# What it says goes to another container of its pod, as to a log daemon, as soon as that listens.
socket our $client, 1, 2, 0 or die $!;
open my $ready, '>', '/ready' or die $!;
close $ready;
select undef, undef, undef, 0.02 until connect $client, pack('S a108', 1, '/outside/log');
while (1) { syswrite $client, "here\n"; select undef, undef, undef, 0.05 }
