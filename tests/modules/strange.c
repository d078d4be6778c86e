/* A module whose commands no table knows, for the tests. It declares the few functions of the module API that it uses. */

typedef struct Ctx Ctx;
typedef struct String String;
typedef struct CallReply CallReply;
typedef int (*Handler)(Ctx *, String **, int);

static int (*set_attributes)(Ctx *, const char *, int, int);
static int (*create_command)(Ctx *, const char *, Handler, const char *, int, int, int);
static CallReply *(*call)(Ctx *, const char *, const char *, ...);
static int (*reply_with_call_reply)(Ctx *, CallReply *);
static int (*wrong_arity)(Ctx *);

/* strange.append key value */
static int append(Ctx *ctx, String **argv, int argc) {
    if (argc != 3) return wrong_arity(ctx);
    return reply_with_call_reply(ctx, call(ctx, "APPEND", "ss!", argv[1], argv[2]));
}

/* strange.length key */
static int length(Ctx *ctx, String **argv, int argc) {
    if (argc != 2) return wrong_arity(ctx);
    return reply_with_call_reply(ctx, call(ctx, "STRLEN", "s", argv[1]));
}

/* strange.nowhere value: writes a key that it does not name as one */
static int nowhere(Ctx *ctx, String **argv, int argc) {
    if (argc != 2) return wrong_arity(ctx);
    return reply_with_call_reply(ctx, call(ctx, "SET", "cs!", "nowhere", argv[1]));
}

int RedisModule_OnLoad(Ctx *ctx, String **argv, int argc) {
    (void)argv;
    (void)argc;
    int (*get)(const char *, void *) = (int (*)(const char *, void *))((void **)ctx)[0];
    get("RedisModule_SetModuleAttribs", (void *)&set_attributes);
    get("RedisModule_CreateCommand", (void *)&create_command);
    get("RedisModule_Call", (void *)&call);
    get("RedisModule_ReplyWithCallReply", (void *)&reply_with_call_reply);
    get("RedisModule_WrongArity", (void *)&wrong_arity);
    set_attributes(ctx, "strange", 1, 1);
    if (create_command(ctx, "strange.append", append, "write deny-oom", 1, 1, 1) != 0) return 1;
    if (create_command(ctx, "strange.length", length, "readonly", 1, 1, 1) != 0) return 1;
    return create_command(ctx, "strange.nowhere", nowhere, "write", 0, 0, 0);
}
