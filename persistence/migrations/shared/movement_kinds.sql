-- The cause of a movement was a sentence: 'stocked', 'order 12', 'taken over: order 12', or any text.
-- It becomes a kind, an order and a reason. The new columns are filled by one rewrite of the table.
alter table stock_movements
    add column kind     text,
    add column order_id bigint,
    add column reason   text;

alter table stock_movements
    alter column kind type text using case
        when cause = 'stocked' then 'stocked'
        when cause like 'taken over: %' then 'taken_over'
        when delta < 0 then 'sold'
        else 'changed'
    end,
    alter column order_id type bigint using case
        when cause ~ '^order [0-9]{1,18}$' then substr(cause, 7)::bigint
        when cause ~ '^taken over: order [0-9]{1,18}$' then substr(cause, 19)::bigint
    end,
    alter column reason type text using case
        when cause = 'stocked' or cause ~ '^(taken over: )?order [0-9]{1,18}$' then null
        when cause like 'taken over: %' then substr(cause, 13)
        else cause
    end,
    alter column cause drop not null,
    alter column cause type text using null,
    alter column kind set not null,
    add constraint stock_movements_kind_check check (kind in
        ('sold', 'changed', 'cancelled', 'expired', 'returned', 'taken_over', 'stocked', 'adjusted'));

alter table stock_movements drop column cause;
