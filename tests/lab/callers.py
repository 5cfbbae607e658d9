"""Small servers on the lab's machines and their callers: who reaches whom, and as what address."""

import contextlib
import socket
import threading


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextlib.contextmanager
def serving(machine, address, kind, serve):
    """Runs `serve` with a socket that is bound to the address, until the block ends."""
    with machine.entered():
        server = socket.socket(family_of(address[0]), kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(address)
    if kind == socket.SOCK_STREAM:
        server.listen()

    def run():
        with contextlib.suppress(OSError):
            serve(server)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def listener(machine, address, kind=socket.SOCK_STREAM):
    """A server that sends each caller the address that it sees."""
    def tell_callers(server):
        while True:
            connection, caller = server.accept()
            with connection:
                connection.sendall(caller[0].encode())

    def tell_senders(server):
        while True:
            _, caller = server.recvfrom(5000)
            if not caller:
                return  # shut down
            server.sendto(caller[0].encode(), caller)

    serve = tell_callers if kind == socket.SOCK_STREAM else tell_senders
    return serving(machine, address, kind, serve)


def echo(machine, address):
    """A TCP server that sends back what it gets."""
    def answer(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1000):
                connection.sendall(data)

    def send_back(server):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=answer, args=[connection], daemon=True).start()

    return serving(machine, address, socket.SOCK_STREAM, send_back)


def says(connection, word):
    """The answer of the other end."""
    connection.sendall(word)
    return connection.recv(1000)


def call(machine, address, source=None):
    """The address that a TCP server sees of this machine."""
    with machine.entered():
        caller = socket.socket(family_of(address[0]), socket.SOCK_STREAM)
    with caller:
        caller.settimeout(5)
        if source:
            caller.bind((source, 0))
        caller.connect(address)
        return caller.recv(100).decode()


def ask(machine, address, payload=b"?"):
    """The same over UDP."""
    with machine.entered():
        caller = socket.socket(family_of(address[0]), socket.SOCK_DGRAM)
    with caller:
        caller.settimeout(5)
        caller.connect(address)
        caller.send(payload)
        return caller.recv(100).decode()


def is_prohibited(ping):
    """The gateway has said that it does not let this through."""
    return "Packet filtered" in ping.stdout
