#!/bin/sh
# init: PID 1 of a node of the lab. `build` runs in fresh namespaces on the host's files and makes the node's root;
# `serve` is what PID 1 then becomes: it configures the uplink, keeps the services running and reaps orphans.
# Settings come in LAB_* variables from hack/nodes/start.ts.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

build() {
  # /proc is still the host's and a redirection starts no process, so this is PID 1's PID as the host sees it.
  read -r pid _ </proc/self/stat
  echo "$pid" >"$LAB_RUN/pid.new"
  mv "$LAB_RUN/pid.new" "$LAB_RUN/pid"
  echo "$LAB_NODE" >/proc/sys/kernel/hostname

  new=$LAB_RUN/root
  mount -t overlay -o "lowerdir=$LAB_ROOT,upperdir=$LAB_RUN/upper,workdir=$LAB_RUN/work" overlay "$new"
  mount_cgroups
  mount --rbind /dev "$new/dev"
  mount -t tmpfs -o mode=1777 shm "$new/dev/shm"
  mount -t tmpfs -o mode=755 run "$new/run"
  mount -t tmpfs -o mode=1777 tmp "$new/tmp"
  mkdir -p "$new/var/lib/containerd" "$new/var/lib/gantry" "$new/var/log/gantry-lab" "$new/opt/gantry" "$new/run/old"
  # On the disk itself: overlay cannot lie on overlay, and the snapshotter uses overlay.
  mount --bind "$LAB_RUN/containerd" "$new/var/lib/containerd"
  mount --bind "$LAB_RUN/gantry" "$new/var/lib/gantry"
  mount --bind "$LAB_RUN/log" "$new/var/log/gantry-lab"
  mount --bind "$LAB_REPO" "$new/opt/gantry"
  mount -o remount,bind,ro "$new/opt/gantry"
  cd "$new"
  pivot_root . run/old
  cd /
  umount -l /run/old
  rmdir /run/old
  mount --make-rshared /
  exec /bin/sh /opt/gantry/hack/nodes/init.sh serve
}

# The node's view of the cgroups: its own cgroup is the root of every hierarchy (cgroup_namespaces(7)).
mount_cgroups() {
  mount -t proc proc "$new/proc"
  mount -t sysfs sysfs "$new/sys"
  groups=$new/sys/fs/cgroup
  if ! grep -qv '^0:' /proc/self/cgroup; then
    mount -t cgroup2 cgroup2 "$groups"
    delegate_cgroup2
    return
  fi
  mount -t tmpfs -o mode=755 cgroup "$groups"
  while IFS=: read -r _ controllers _; do
    case $controllers in
    '') mkdir "$groups/unified" && mount -t cgroup2 cgroup2 "$groups/unified" ;;
    name=*) mkdir "$groups/${controllers#name=}" && mount -t cgroup -o "none,$controllers" cgroup "$groups/${controllers#name=}" ;;
    *)
      mkdir "$groups/$controllers"
      mount -t cgroup -o "$controllers" cgroup "$groups/$controllers"
      link_controllers
      ;;
    esac
  done </proc/self/cgroup
}

# cpu,cpuacct is one hierarchy that programs look for under three names.
link_controllers() {
  case $controllers in *,*) ;; *) return 0 ;; esac
  for controller in $(echo "$controllers" | tr , ' '); do
    ln -s "$controllers" "$groups/$controller"
  done
}

# Untested: the machines at hand have cgroup v1. Processes may live only in leaves once controllers are enabled.
delegate_cgroup2() {
  mkdir "$groups/init"
  echo $$ >"$groups/init/cgroup.procs"
  read -r controllers <"$groups/cgroup.controllers"
  for controller in $controllers; do
    echo "+$controller" >"$groups/cgroup.subtree_control" || true
  done
}

serve() {
  mkdir -p /run/lab /run/gantry
  connect
  for service in $LAB_SERVICES; do
    case $service in
    containerd) supervise containerd containerd --config /etc/containerd/config.toml & ;;
    proxy) supervise proxy gantry proxy --listen /run/gantry/cri.sock --upstream /run/containerd/containerd.sock & ;;
    agent) supervise agent gantry agent --config /etc/gantry/agent.json & ;;
    esac
  done
  # The supervisors never end, so this waits for ever and meanwhile reaps whatever was re-parented to PID 1.
  while :; do
    wait
    sleep 1
  done
}

# The uplink comes from `up`, which needs this process' namespace to put it there. Flat, the node's addresses are on the
# bridge that CNI adds the pods to: nodes and pods are neighbours on one network. With gateways the bridge is the pods' own.
connect() {
  ip link set lo up
  tries=0
  while [ ! -e /sys/class/net/uplink ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { echo 'init: no uplink after 30 s' >&2; exit 1; }
    sleep 0.05
  done
  # With its own MAC: otherwise a bridge takes the lowest of its ports', and changes it as pods come and go.
  if [ -z "$LAB_GATEWAYS" ]; then
    ip link add cni0 address "$LAB_MAC" type bridge
    ip link set uplink master cni0
    node=cni0
  else
    ip link add cni0 address "02:68${LAB_MAC#02:67}" type bridge
    ip link set uplink address "$LAB_MAC"
    node=uplink
  fi
  ip link set uplink up
  ip link set cni0 up
  for address in $LAB_ADDRESSES; do add_address "$address" "$node"; done
  for address in $LAB_GATEWAYS; do add_address "$address" cni0; done
  # These belong to the node's network namespace; the host keeps its own.
  echo 1 >/proc/sys/net/ipv4/ip_forward
  [ ! -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
  for route in $LAB_ROUTES; do ip route add "${route%=*}" via "${route#*=}"; done
  for switch in /proc/sys/net/bridge/bridge-nf-call-*; do
    [ ! -e "$switch" ] || echo 0 >"$switch"
  done
}

# Without duplicate-address detection: nobody else has them, and until it ends an IPv6 address cannot be used.
add_address() {
  case $1 in
  *:*) ip address add "$1" dev "$2" nodad ;;
  *) ip address add "$1" dev "$2" ;;
  esac
}

supervise() {
  service=$1
  shift
  while :; do
    "$@" >>"/var/log/gantry-lab/$service.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"/run/lab/$service.pid.new"
    mv "/run/lab/$service.pid.new" "/run/lab/$service.pid"
    status=0
    wait "$pid" || status=$?
    echo "init: $service (PID $pid) ended with status $status; starting it again" >>"/var/log/gantry-lab/$service.log"
    sleep 0.2
  done
}

"$@"
