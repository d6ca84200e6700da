#!/bin/sh
# supervise DELAY PROGRAM...: what systemd is to a socket-activated service. Holds the listening socket (descriptor 3),
# passes it on, starts the program again DELAY seconds after each end, and tells of both on standard output. SIGTERM
# stops the program and then this. Whoever dies without a word takes those below along: the soak may be killed, too.
set -eu
delay=$1
shift
stopping=
pid=
trap 'stopping=1; [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || :' TERM

while [ -z "$stopping" ]; do
  # shellcheck disable=SC2016 # expanded by the inner shell, whose PID the program will have
  sh -c 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=cri exec setpriv --pdeathsig KILL "$@"' sh "$@" &
  pid=$!
  echo "start $pid"
  [ -z "$stopping" ] || kill -TERM "$pid" # the trap came before there was a PID
  status=0
  while :; do
    # The shell says "Killed" in the relay's log otherwise.
    wait "$pid" 2>/dev/null && status=0 || status=$?
    # A trapped signal ends `wait`, too.
    kill -0 "$pid" 2>/dev/null || break
  done
  echo "end $pid $status"
  pid=
  [ -n "$stopping" ] || sleep "$delay"
done
