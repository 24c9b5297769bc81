"""Whether Weights & Biases can be reached: a key, and a server that answers, found out without importing wandb."""

from __future__ import annotations

import netrc
import os
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from compress_exp.config.checks import UserError

ANSWER_SECONDS = 3.0
FORMER = {"api.forge.coreweave.com": "api.wandb.ai"}  # wandb 0.31 takes the key of the one for the other


def has_key(server: str) -> bool:
    """Whether an account is set up: WANDB_API_KEY, or the server's entry in netrc (what `wandb login` writes)."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    place = urlsplit(server).netloc
    return place in hosts or FORMER.get(place) in hosts


def check_server(server: str) -> None:
    """Require an account on a server that answers.

    Raises:
        UserError: which of them is missing, and what to do.
    """
    if not has_key(server):
        raise UserError(f"there is no key for {server}: `wandb login` or WANDB_API_KEY sets one")
    if not answers(server, ANSWER_SECONDS):
        raise UserError(f"{server} does not answer; try again when it does")


def answers(server: str, timeout: float) -> bool:
    """Whether the server answers an HTTP request within so many seconds, names and connections included.

    Any answer below 500 counts: what is asked for need not exist. No key is sent.
    """
    found: list[int] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{server.rstrip('/')}/healthz", timeout=timeout) as answer:
                found.append(answer.status)
        except urllib.error.HTTPError as error:
            found.append(error.code)
        except (OSError, ValueError):
            pass

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name has no limit of its own
    asking.start()
    asking.join(timeout)
    return bool(found) and found[0] < 500
