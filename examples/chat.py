"""Ask the endpoint with an ordinary OpenAI client and two extra headers.

export OPENAI_BASE_URL=$(pulumi stack output baseUrl)
export MODEL=$(pulumi stack output model)
export CF_ACCESS_CLIENT_ID=...  CF_ACCESS_CLIENT_SECRET=...
python examples/chat.py "Say hello."
"""

import os
import sys

from openai import OpenAI

client = OpenAI(
    # Access authenticates the caller; the engine behind it asks for no key of its own.
    api_key="unused",
    default_headers={
        "CF-Access-Client-Id": os.environ["CF_ACCESS_CLIENT_ID"],
        "CF-Access-Client-Secret": os.environ["CF_ACCESS_CLIENT_SECRET"],
    },
)

# Streaming, because Cloudflare gives up on an answer whose first byte takes over two minutes.
stream = client.chat.completions.create(
    model=os.environ["MODEL"],
    messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Say hello."}],
    stream=True,
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
