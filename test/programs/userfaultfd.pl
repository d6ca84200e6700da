# For its own faults only, which needs no right.
call(323, 282, 1);
stay();
