-- The auth node's users, as this node last heard of them. A deleted one stays, so that a late event cannot bring it back.
create table customers (
    id       uuid    primary key,
    username text,
    email    text,
    role     text    constraint customers_role_check check (role in ('USER', 'ADMIN')),
    version  bigint  not null,
    deleted  boolean not null
);
