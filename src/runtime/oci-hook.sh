#!/bin/sh
# Gantry's OCI hook: containerd runs this as a runtime's BinaryName, under the name gantry-RUNTIME (gantry-runc).
#
# Without a ticket for the container it becomes the real runtime at once, arguments untouched: no process is
# started, nothing is read but the ticket's existence. With a ticket, `create` becomes `restore` (once: the ticket is
# consumed before it is used), the `start` that follows has nothing left to do, and CRIU's own reason for a failure
# goes into the runtime's log, from where containerd takes the error that CRI returns.
#
# Standard output and error are the container's: nothing may be printed here.
#
#   $run/tickets/ID/   written by the agent (0700, renamed into place): checkpoint -> folder of CRIU's images,
#                      criu.conf, options (one per line), gate files, and
#                      cgroup, where the runtime has to be in the container's groups (cgroup v1)
#   $run/spent/ID/     the same folder once consumed; `restored` in it is the marker for `start`
runtime=${0##*/gantry-}
run=${GANTRY_RUN_DIR:-/run/gantry}
for id; do :; done
case $id in '' | . | .. | */*) exec "$runtime" "$@" ;; esac
ticket=$run/tickets/$id
spent=$run/spent/$id
[ -d "$ticket" ] || [ -e "$spent/restored" ] || exec "$runtime" "$@"

# First pass: the verb, which comes after the global options.
verb='' skip=0
for argument; do
  if [ "$skip" = 1 ]; then
    skip=0
    continue
  fi
  case $argument in
  --root | --log | --log-format | --criu | --rootless) skip=1 ;;
  -*) ;;
  *)
    verb=$argument
    break
    ;;
  esac
done

case $verb in
start)
  # The restore already runs; the marker is used up so that nothing later is mistaken for this start.
  if [ -e "$spent/restored" ]; then
    rm -f "$spent/restored" && exit 0
  fi
  exec "$runtime" "$@"
  ;;
create) [ -d "$ticket" ] || exec "$runtime" "$@" ;;
*) exec "$runtime" "$@" ;;
esac

# Consumed before use: whatever happens from here on, no second create finds the ticket.
rm -rf "$spent"
mv "$ticket" "$spent" 2>/dev/null || exit 1

# Second pass: rebuild the arguments. `restore` does not know --no-new-keyring and --preserve-fds.
log='' expect='' seen=0 left=$#
while [ "$left" -gt 0 ]; do
  argument=$1
  shift
  left=$((left - 1))
  if [ -n "$expect" ]; then
    [ "$expect" != log ] || log=$argument
    [ "$expect" = drop ] || set -- "$@" "$argument"
    expect=''
    continue
  fi
  case $seen,$argument in
  0,--log) expect=log ;;
  0,--root | 0,--log-format | 0,--criu | 0,--rootless) expect=keep ;;
  0,create)
    seen=1
    set -- "$@" restore --detach --image-path "$spent/checkpoint" --work-path "$spent"
    while IFS= read -r option; do
      set -- "$@" "$option"
    done <"$spent/options"
    continue
    ;;
  1,--no-new-keyring | 1,--preserve-fds=*) continue ;;
  1,--preserve-fds)
    expect=drop
    continue
    ;;
  esac
  set -- "$@" "$argument"
done

(
  if [ -e "$spent/cgroup" ]; then
    # The images name these, CRIU makes none, and crun mounts the groups that it is in itself.
    IFS= read -r group <"$spent/cgroup"
    for hierarchy in /sys/fs/cgroup/*/; do
      [ -e "$hierarchy/cgroup.procs" ] || continue
      mkdir -p "$hierarchy$group" || exit 1
      for set in cpuset.cpus cpuset.mems; do
        # A new group has none, and takes no process until it has.
        [ ! -e "$hierarchy$set" ] || cat "$hierarchy${group%/*}/$set" >"$hierarchy$group/$set" || exit 1
      done
      echo 0 >"$hierarchy$group/cgroup.procs" || exit 1
    done
  fi 2>/dev/null
  CRIU_CONFIG_FILE=$spent/criu.conf exec "$runtime" "$@"
)
code=$?
if [ "$code" = 0 ]; then
  : >"$spent/restored"
  exit 0
fi

# CRIU's reason, as one more error line of the runtime's JSON log: containerd reports the last one.
if [ -n "$log" ]; then
  # CRIU says of the limit of open files that it is an error, and goes on.
  reason=$(sed -n '/RLIMIT_NOFILE/d; s/^([^)]*)[ 0-9:]*Error ([^)]*): //p' "$spent/restore.log" 2>/dev/null |
    head -n 3 | tr '\t' ' ' | tr -d '\000-\011\013-\037' |
    sed -e ':all' -e '$!{N;b all' -e '}' -e 's/[\\"]/\\&/g; s/\n/; /g')
  [ -z "$reason" ] ||
    printf '{"level":"error","msg":"restore from checkpoint failed: %s"}\n' "$reason" >>"$log" 2>/dev/null
fi
exit "$code"
