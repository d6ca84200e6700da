export const DEFAULT_UPSTREAM_WAIT_MS = 5000;
// kubelet connects anew as soon as it is told to go, waits for the successor in the socket's queue, and gives up after
// 5 s (minConnectionTimeout of k8s.io/cri-client); drain and start together have to be shorter.
export const DEFAULT_DRAIN_TIMEOUT_MS = 3000;
