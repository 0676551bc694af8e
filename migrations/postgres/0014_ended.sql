-- Replaced by operations_to_forget. Apart from its creation, because this locks out readers too, and only for a moment.
DROP INDEX operations_ended;
