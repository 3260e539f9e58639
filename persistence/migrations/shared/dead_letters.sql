-- Messages that could not be applied, each until a person redrives or drops it.
create table dead_letters (
    id              uuid        primary key,
    queue           text        not null,
    event           text        not null,
    message_id      text,
    version         bigint,
    reason          text        not null,
    first_failed_at timestamptz not null,
    tries           integer     not null,
    headers         jsonb       not null,
    properties      jsonb       not null,
    payload         bytea       not null,
    kept_at         timestamptz not null default now()
);

create index dead_letters_by_age on dead_letters (first_failed_at, id);
