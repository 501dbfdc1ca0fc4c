"""`planfix-bridge`, also as `python -m bridge`: the commands, in a process whose garbage collector is set for them."""

import gc


def main() -> None:
    gc.disable()  # of what is imported nothing is garbage: to look for it was a seventh of a start
    from bridge.cli import main as commands

    gc.freeze()
    gc.set_threshold(10_000, 10, 10)  # an import makes many objects that live until it is delivered
    gc.enable()
    commands(prog_name="planfix-bridge")


if __name__ == "__main__":
    main()
