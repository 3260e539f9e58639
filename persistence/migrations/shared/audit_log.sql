-- What administrators did with the actors of this node.
create table audit_log (
    id         bigint      generated always as identity primary key,
    at         timestamptz not null default now(),
    user_id    uuid        not null,
    username   text        not null,
    action     text        not null,
    actor      text        not null,
    reason     text        not null,
    request_id text        not null
);
