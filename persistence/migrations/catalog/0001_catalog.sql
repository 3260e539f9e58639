create table categories (
    id        bigint  generated always as identity primary key,
    name      text    not null,
    parent_id bigint  constraint categories_parent_id_fkey references categories,
    level     integer not null
);

create index categories_parents_first on categories (level, id);

create table products (
    id               bigint generated always as identity primary key,
    name             text   not null,
    price            bigint not null check (price >= 0),
    storage_quantity bigint not null,
    category_id      bigint not null constraint products_category_id_fkey references categories,
    version          bigint not null default 1
);

create index products_of_category on products (category_id, id);

-- What moved the stock, and why. A product's storage_quantity is the sum of its movements.
create table stock_movements (
    id         uuid        primary key,
    product_id bigint      not null,
    delta      bigint      not null,
    cause      text        not null,
    created_at timestamptz not null default now()
);

create index stock_movements_of_product on stock_movements (product_id);
