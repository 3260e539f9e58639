-- Events that were committed and not yet confirmed by the broker. Without a version of its own, an event's version is its id.
create table outbox (
    id          bigint      generated always as identity primary key,
    message_id  uuid        not null,
    event       text        not null,
    version     bigint,
    body        text        not null,
    traceparent text,
    created_at  timestamptz not null default now()
);
