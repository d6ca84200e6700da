#!/bin/sh
# Run by CRIU as its action script, from a ticket's folder: holds the restore at `pre-resume`, with every task
# complete and stopped, until the agent says "go". Bounded, because this wait holds the shim of the whole pod; no
# word in time, or any other word, fails the restore and ends what it made.
[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0
here=${0%/*}
: >"$here/poised"
[ "$(timeout 10 cat "$here/gate")" = go ]
