# Another program listens, outside.
socket our $client, 1, 1, 0 or die $!;
connect $client, pack('S a108', 1, '/outside/socket') or die $!;
stay();
