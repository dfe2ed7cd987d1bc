"""Eight clients at the same time store a thousand values each, and read them back."""
import socket
import threading

failures = []


def work(client):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("m.sock")
    stream = connection.makefile("rwb")
    for number in range(1000):
        key, value = b"%d-%d" % (client, number), b"x" * (100 + number)
        stream.write(b"set %s 0 0 %d\r\n%s\r\nget %s\r\n" % (key, len(value), value, key))
        stream.flush()
        answer = [stream.readline() for _ in range(4)]
        if answer[0] != b"STORED\r\n" or answer[2] != value + b"\r\n":
            failures.append(answer)


clients = [threading.Thread(target=work, args=(client,)) for client in range(8)]
for client in clients:
    client.start()
for client in clients:
    client.join()
assert not failures, failures[0]
