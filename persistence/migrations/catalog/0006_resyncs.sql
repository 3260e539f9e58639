-- When this database's copies of what other nodes own were asked to be made anew, and whether they were.
-- Without a row they never were: this is a new node's database, or one that was emptied.
create table resyncs (
    id         bigint      generated always as identity primary key,
    asked_at   timestamptz not null default now(),
    -- When a node last worked at it.
    worked_at  timestamptz,
    done_at    timestamptz,
    people     bigint      not null default 0,
    movements  bigint      not null default 0,
    products   bigint      not null default 0,
    -- Why the last try did not come to an end.
    trouble    text
);
