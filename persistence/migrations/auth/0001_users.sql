-- `*_key` is the name as it is compared: in lower case, folded by the program, which knows all of Unicode.
create table users (
    id            uuid        primary key,
    username      text        not null,
    username_key  text        not null constraint users_username_key unique,
    email         text        not null,
    email_key     text        not null constraint users_email_key unique,
    password_hash text        not null,
    role          text        not null constraint users_role_check check (role in ('USER', 'ADMIN')),
    version       bigint      not null default 1,
    created_at    timestamptz not null default now()
);

create index users_admins on users (id) where role = 'ADMIN';
