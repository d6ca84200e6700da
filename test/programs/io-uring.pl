my $parameters = "\0" x 120;
call(425, 425, 8, $parameters);
stay();
