#!/bin/sh
# join LAB/NODE COMMAND…: enters the node's cgroup in every hierarchy, then becomes COMMAND. Whatever a lab starts
# goes through here, so that its cgroups name every process that `down` has to end.
set -eu
node=$1
shift
joined=
for group in "/sys/fs/cgroup/gantry-lab/$node" /sys/fs/cgroup/*/gantry-lab/"$node"; do
  [ -d "$group" ] || continue
  # On cgroup2 alone, init.sh has moved itself into a leaf: inner nodes may hold no process.
  [ ! -d "$group/init" ] || group=$group/init
  echo $$ >"$group/cgroup.procs"
  joined=1
done
if [ -z "$joined" ]; then
  # `down` removes the cgroups first: a node that starts late must end here.
  echo "join.sh: node $node has no cgroup: its lab is not up" >&2
  exit 1
fi
exec "$@"
