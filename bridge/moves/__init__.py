"""Moving lists to another provider: the plan, the move of one list, all of an account, what is compared afterwards."""
