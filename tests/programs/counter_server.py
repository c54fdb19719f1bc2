"""counter_server.py: a line protocol whose sessions outlive the process that began them.

Each line is answered with the number of lines so far in this session, and the generation.
"""

import endless_py
from endless_py import socketserver


class Counter(socketserver.StreamRequestHandler):
    count = 0

    def handle(self):
        while endless_py.await_message(self):
            if not self.rfile.readline():
                return
            self.count += 1
            generation = endless_py.state()["generation"]
            self.wfile.write(f"{self.count} {generation}\n".encode())

    def save_state(self):
        return str(self.count).encode()

    def restore_state(self, data):
        self.count = int(data)


with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Counter) as server:
    server.serve_forever()
