"""Who may call: Cloudflare Access in front of the endpoint's public name."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import pulumi
import pulumi_cloudflare as cloudflare

from components.callers import Callers
from components.domain import Domain


class AccessApplicationArgs(TypedDict):
    domain: Domain
    callers: Callers


class AccessApplication(pulumi.ComponentResource):
    """One Access application for the whole hostname: programs by token, people by login."""

    audience: pulumi.Output[str]
    """The application's AUD tag, which every token that it issues carries."""
    tokens: Mapping[str, cloudflare.ZeroTrustAccessServiceToken]
    """The service token of each consumer."""
    probe: cloudflare.ZeroTrustAccessServiceToken
    """The service token with which the stack itself asks whether the endpoint answers."""

    def __init__(
        self, name: str, args: AccessApplicationArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("llm-endpoint:index:AccessApplication", name, {}, opts)
        domain, callers = args["domain"], args["callers"]
        child = pulumi.ResourceOptions(parent=self)
        protected = pulumi.ResourceOptions(parent=self, protect=domain.protect)

        def service_token(role: str, title: str) -> cloudflare.ZeroTrustAccessServiceToken:
            return cloudflare.ZeroTrustAccessServiceToken(
                f"{name}-{role}",
                account_id=domain.account_id,
                name=f"{name}: {title}",
                duration=callers.token_duration,
                opts=protected,
            )

        self.tokens = {
            consumer: service_token(f"consumer-{consumer}", consumer)
            for consumer in sorted(callers.consumers)
        }
        self.probe = service_token("probe", "readiness probe of the stack itself")

        machines = cloudflare.ZeroTrustAccessPolicy(
            f"{name}-service-tokens",
            account_id=domain.account_id,
            name=f"{name}: service tokens",
            decision="non_identity",
            includes=[
                {"service_token": {"token_id": token.id}}
                for token in [*self.tokens.values(), self.probe]
            ],
            opts=child,
        )
        policies = [machines]
        if people := people_rules(callers.emails, callers.email_domains):
            policies.append(
                cloudflare.ZeroTrustAccessPolicy(
                    f"{name}-people",
                    account_id=domain.account_id,
                    name=f"{name}: people",
                    decision="allow",
                    includes=people,
                    opts=child,
                )
            )
        application = cloudflare.ZeroTrustAccessApplication(
            f"{name}-application",
            account_id=domain.account_id,
            # Left out, the provider finds a difference at every `up`.
            type="self_hosted",
            name=name,
            domain=domain.hostname,
            policies=[
                {"id": policy.id, "precedence": precedence}
                for precedence, policy in enumerate(policies, start=1)
            ],
            session_duration="24h",
            app_launcher_visible=False,
            # Programs get 401 and no login page.
            service_auth401_redirect=True,
            opts=protected,
        )

        self.audience = application.aud
        self.register_outputs({"audience": self.audience})


def people_rules(
    emails: Sequence[str], email_domains: Sequence[str]
) -> list[cloudflare.ZeroTrustAccessPolicyIncludeArgsDict]:
    """One selector for each address and each domain; any of them lets a person in."""
    return [
        *({"email": {"email": email}} for email in sorted(emails)),
        *({"email_domain": {"domain": domain}} for domain in sorted(email_domains)),
    ]
