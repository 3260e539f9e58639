-- Answers to requests with an Idempotency-Key, written with what those changed.
create table idempotency_keys (
    caller      uuid        not null,
    name        text        not null,
    fingerprint text        not null,
    status      smallint    not null,
    body        bytea       not null,
    kept_until  timestamptz not null,
    primary key (caller, name)
);

create index idempotency_keys_to_sweep on idempotency_keys (kept_until);
