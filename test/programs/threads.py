# Threads of each kind: some count, one waits for work, and one serves each connection. Asked with a line, it answers with one.
import json, os, socket, threading, time

lock = threading.Lock()
counters = [{"count": 0, "sum": 0} for _ in range(4)]
work = threading.Condition()
given, done = [], []


def count(mine):
    own = threading.local()
    own.count = 0
    while True:
        own.count += 1
        with lock:
            mine["count"] += 1
            mine["sum"] += own.count
        # One of them never waits.
        if mine is not counters[0]:
            time.sleep(0.002)


def wait():
    while True:
        with work:
            while not given:
                work.wait()
            done.append(given.pop(0))


def serve(connection):
    lines = connection.makefile("r")
    asked = 0
    for line in lines:
        asked += 1
        if line.strip():
            with work:
                given.append(line.strip())
                work.notify()
            while given:
                time.sleep(0.001)
        with lock:
            answer = {
                "asked": asked,
                "counters": counters,
                "done": done,
                "threads": sorted(thread.native_id for thread in threading.enumerate()),
            }
            text = json.dumps(answer)
        connection.sendall(text.encode() + b"\n")


for mine in counters:
    threading.Thread(target=count, args=(mine,)).start()
threading.Thread(target=wait).start()
listener = socket.create_server(("", 7000))
while True:
    connection, _ = listener.accept()
    threading.Thread(target=serve, args=(connection,)).start()
