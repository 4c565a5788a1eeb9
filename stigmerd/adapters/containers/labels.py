"""The labels by which a container is known as ours. Nothing but them proves it."""

HOME_LABEL = "stigmerd.home"
COMPONENT_LABEL = "stigmerd.component"
LIFE_LABEL = "stigmerd.life"
NONCE_LABEL = "stigmerd.nonce"
DEFINITION_LABEL = "stigmerd.definition"
