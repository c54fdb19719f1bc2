"""One reload, step by step, and the file in which each step lives.

| step | what happens | file |
| --- | --- | --- |
| 1 | SIGHUP reaches the incumbent; its handler leaves a note, an order | `signals`, `orders` |
| 2 | the program's `before_reload` hooks run, as a job: nothing is held | `spawn`, `hooks` |
| 3 | the incumbent starts the same command line, with the channel | `spawn` |
| 4 | the successor takes the variable and the listeners | `inherit` |
| 5 | the successor says ready, listener by listener, or fails | `readiness` |
| 6 | the incumbent stops accepting; idle connections migrate | `drain`, `migration` |
| 7 | nothing is active: the program ends, then the interpreter | `exit` (kept pid: `reexec`) |

A failure of step 5 or 6 is `resume`; orders to stop are `stop`. `machine` is the table that says
which of these follows from what, `process` puts the steps together, `base` is what all of them
know, `driver` says which thread takes them, and `hear` turns the neighbours' words into events.
Who is told is `supervisor`, `report` and `answers`.
"""
