/* Installs N host routes, 1024 messages a send, acknowledged once each: what C can do.
   Usage: install N ATTRIBUTE VALUE: 30 and the id of a nexthop object, or 5 and the gateway as a number in network order.
   Prints microseconds. */
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 1024 };

struct request {
    struct nlmsghdr head;
    struct rtmsg route;
    struct rtattr to_head;
    uint32_t to;
    struct rtattr metric_head;
    uint32_t metric;
    struct rtattr hop_head;
    uint32_t hop;
};

int main(int argc, char **argv)
{
    uint32_t count = atoi(argv[1]), hop = strtoul(argv[3], 0, 0);
    unsigned short way = atoi(argv[2]);
    int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), size = 8 << 20, sent = 0;
    struct sockaddr_nl self = {.nl_family = AF_NETLINK};
    static struct request batch[BATCH];
    static char answer[1 << 16];
    struct timespec begin, end;
    (void)argc;
    setsockopt(s, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    bind(s, (struct sockaddr *)&self, sizeof self);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint32_t i = 0; i < count; i++) {
        int last = sent + 1 == BATCH || i + 1 == count;
        batch[sent++] = (struct request){
            {sizeof(struct request), RTM_NEWROUTE,
             NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | (last ? NLM_F_ACK : 0), i + 1, 0},
            {AF_INET, 32, 0, 0, RT_TABLE_MAIN, 177, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0},
            {8, RTA_DST}, htonl(0x0A640000 + i), {8, RTA_PRIORITY}, 1024, {8, way}, hop};
        if (!last)
            continue;
        if (send(s, batch, sent * sizeof *batch, 0) < 0 || recv(s, answer, sizeof answer, 0) < 0)
            return perror("netlink"), 1;
        if (((struct nlmsgerr *)NLMSG_DATA(answer))->error)
            return fprintf(stderr, "refused: %d\n", ((struct nlmsgerr *)NLMSG_DATA(answer))->error), 1;
        sent = 0;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%ld\n", (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000);
    return 0;
}
