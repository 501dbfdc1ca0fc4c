"""`python -m bridge` is `planfix-bridge`."""

from bridge.cli import main

if __name__ == "__main__":
    main(prog_name="planfix-bridge")
